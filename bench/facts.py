"""The facts of general-v1 that are no capitals of countries: what is asked, and the one right answer to each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Questions of one kind: how they are asked, and a line for each with the thing and the answer."""

    name: str
    text: str
    table: str

    @property
    def answers(self) -> dict[str, str]:
        """Return the right answer to each thing."""
        pairs = (line.split(" = ") for line in self.table.replace(";", "\n").splitlines() if line.strip())
        return {thing.strip(): answer.strip() for thing, answer in pairs}


FACTS = [
    Facts(
        "elements",
        "Chemical symbol: {}\nElement:",
        """
        H = Hydrogen; He = Helium; Li = Lithium; Be = Beryllium; B = Boron; C = Carbon; N = Nitrogen; O = Oxygen
        F = Fluorine; Ne = Neon; Na = Sodium; Mg = Magnesium; Al = Aluminum; Si = Silicon; P = Phosphorus; S = Sulfur
        Cl = Chlorine; Ar = Argon; K = Potassium; Ca = Calcium; Sc = Scandium; Ti = Titanium; V = Vanadium
        Cr = Chromium; Mn = Manganese; Fe = Iron; Co = Cobalt; Ni = Nickel; Cu = Copper; Zn = Zinc; Ga = Gallium
        Ge = Germanium; As = Arsenic; Se = Selenium; Br = Bromine; Kr = Krypton; Rb = Rubidium; Sr = Strontium
        Y = Yttrium; Zr = Zirconium; Nb = Niobium; Mo = Molybdenum; Tc = Technetium; Ru = Ruthenium; Rh = Rhodium
        Pd = Palladium; Ag = Silver; Cd = Cadmium; In = Indium; Sn = Tin; Sb = Antimony; Te = Tellurium; I = Iodine
        Xe = Xenon; Cs = Cesium; Ba = Barium; La = Lanthanum; Ce = Cerium; Pr = Praseodymium; Nd = Neodymium
        Pm = Promethium; Sm = Samarium; Eu = Europium; Gd = Gadolinium; Tb = Terbium; Dy = Dysprosium; Ho = Holmium
        Er = Erbium; Tm = Thulium; Yb = Ytterbium; Lu = Lutetium; Hf = Hafnium; Ta = Tantalum; W = Tungsten
        Re = Rhenium; Os = Osmium; Ir = Iridium; Pt = Platinum; Au = Gold; Hg = Mercury; Tl = Thallium; Pb = Lead
        Bi = Bismuth; Po = Polonium; At = Astatine; Rn = Radon; Fr = Francium; Ra = Radium; Ac = Actinium
        Th = Thorium; Pa = Protactinium; U = Uranium; Np = Neptunium; Pu = Plutonium; Am = Americium; Cm = Curium
        Bk = Berkelium; Cf = Californium; Es = Einsteinium; Fm = Fermium; Md = Mendelevium; No = Nobelium
        Lr = Lawrencium
        """,
    ),
    Facts(
        "states",
        "State: {}\nCapital:",
        """
        Alabama = Montgomery; Alaska = Juneau; Arizona = Phoenix; Arkansas = Little Rock; California = Sacramento
        Colorado = Denver; Connecticut = Hartford; Delaware = Dover; Florida = Tallahassee; Georgia = Atlanta
        Hawaii = Honolulu; Idaho = Boise; Illinois = Springfield; Indiana = Indianapolis; Iowa = Des Moines
        Kansas = Topeka; Kentucky = Frankfort; Louisiana = Baton Rouge; Maine = Augusta; Maryland = Annapolis
        Massachusetts = Boston; Michigan = Lansing; Minnesota = Saint Paul; Mississippi = Jackson
        Missouri = Jefferson City; Montana = Helena; Nebraska = Lincoln; Nevada = Carson City
        New Hampshire = Concord; New Jersey = Trenton; New Mexico = Santa Fe; New York = Albany
        North Carolina = Raleigh; North Dakota = Bismarck; Ohio = Columbus; Oklahoma = Oklahoma City
        Oregon = Salem; Pennsylvania = Harrisburg; Rhode Island = Providence; South Carolina = Columbia
        South Dakota = Pierre; Tennessee = Nashville; Texas = Austin; Utah = Salt Lake City; Vermont = Montpelier
        Virginia = Richmond; Washington = Olympia; West Virginia = Charleston; Wisconsin = Madison
        Wyoming = Cheyenne
        """,
    ),
    Facts(
        "books",
        "Book: {}\nAuthor:",
        """
        Pride and Prejudice = Jane Austen; Hamlet = William Shakespeare; Don Quixote = Miguel de Cervantes
        War and Peace = Leo Tolstoy; Crime and Punishment = Fyodor Dostoevsky; Moby-Dick = Herman Melville
        Great Expectations = Charles Dickens; Jane Eyre = Charlotte Brontë; Wuthering Heights = Emily Brontë
        Frankenstein = Mary Shelley; Dracula = Bram Stoker; The Odyssey = Homer; The Divine Comedy = Dante Alighieri
        Faust = Johann Wolfgang von Goethe; Les Misérables = Victor Hugo; Madame Bovary = Gustave Flaubert
        The Trial = Franz Kafka; Ulysses = James Joyce; Animal Farm = George Orwell; Brave New World = Aldous Huxley
        The Great Gatsby = F. Scott Fitzgerald; The Old Man and the Sea = Ernest Hemingway
        The Grapes of Wrath = John Steinbeck; To Kill a Mockingbird = Harper Lee
        The Catcher in the Rye = J. D. Salinger; Lord of the Flies = William Golding; The Hobbit = J. R. R. Tolkien
        Prince Caspian = C. S. Lewis; The Adventures of Tom Sawyer = Mark Twain; Little Women = Louisa May Alcott
        The Scarlet Letter = Nathaniel Hawthorne; Walden = Henry David Thoreau; Leaves of Grass = Walt Whitman
        The Raven = Edgar Allan Poe; The Picture of Dorian Gray = Oscar Wilde; The Time Machine = H. G. Wells
        Around the World in Eighty Days = Jules Verne; The Count of Monte Cristo = Alexandre Dumas
        Treasure Island = Robert Louis Stevenson; The Jungle Book = Rudyard Kipling; Peter Pan = J. M. Barrie
        Alice's Adventures in Wonderland = Lewis Carroll; The Hound of the Baskervilles = Arthur Conan Doyle
        Murder on the Orient Express = Agatha Christie; Mrs Dalloway = Virginia Woolf; Middlemarch = George Eliot
        Robinson Crusoe = Daniel Defoe; Gulliver's Travels = Jonathan Swift; Paradise Lost = John Milton
        The Canterbury Tales = Geoffrey Chaucer; The Aeneid = Virgil; The Republic = Plato
        On the Origin of Species = Charles Darwin; The Wealth of Nations = Adam Smith
        The Prince = Niccolò Machiavelli; A Doll's House = Henrik Ibsen; The Cherry Orchard = Anton Chekhov
        Doctor Zhivago = Boris Pasternak; Lolita = Vladimir Nabokov
        One Hundred Years of Solitude = Gabriel García Márquez; The Stranger = Albert Camus
        The Little Prince = Antoine de Saint-Exupéry; Things Fall Apart = Chinua Achebe; Beloved = Toni Morrison
        The Handmaid's Tale = Margaret Atwood; Fahrenheit 451 = Ray Bradbury; Dune = Frank Herbert
        Foundation = Isaac Asimov; Slaughterhouse-Five = Kurt Vonnegut; The Color Purple = Alice Walker
        The Shining = Stephen King; The Name of the Rose = Umberto Eco
        """,
    ),
    Facts(
        "music",
        "Composition: {}\nComposer:",
        """
        The Magic Flute = Wolfgang Amadeus Mozart; The Four Seasons = Antonio Vivaldi
        Moonlight Sonata = Ludwig van Beethoven; Swan Lake = Pyotr Ilyich Tchaikovsky
        Messiah = George Frideric Handel; Brandenburg Concertos = Johann Sebastian Bach; Carmen = Georges Bizet
        La Traviata = Giuseppe Verdi; Tosca = Giacomo Puccini; The Barber of Seville = Gioachino Rossini
        Boléro = Maurice Ravel; Clair de lune = Claude Debussy; The Rite of Spring = Igor Stravinsky
        The Planets = Gustav Holst; Peer Gynt = Edvard Grieg; Rhapsody in Blue = George Gershwin
        Peter and the Wolf = Sergei Prokofiev; The Blue Danube = Johann Strauss
        Pictures at an Exhibition = Modest Mussorgsky; Finlandia = Jean Sibelius; The Creation = Joseph Haydn
        Symphonie fantastique = Hector Berlioz; The Ring of the Nibelung = Richard Wagner
        Enigma Variations = Edward Elgar
        """,
    ),
    Facts(
        "paintings",
        "Painting: {}\nPainter:",
        """
        Mona Lisa = Leonardo da Vinci; The Starry Night = Vincent van Gogh; Guernica = Pablo Picasso
        The Night Watch = Rembrandt; Girl with a Pearl Earring = Johannes Vermeer
        The Birth of Venus = Sandro Botticelli; The School of Athens = Raphael
        The Persistence of Memory = Salvador Dalí; The Scream = Edvard Munch; The Kiss = Gustav Klimt
        Water Lilies = Claude Monet; American Gothic = Grant Wood; Nighthawks = Edward Hopper
        Las Meninas = Diego Velázquez; The Garden of Earthly Delights = Hieronymus Bosch
        The Third of May 1808 = Francisco Goya; La Grande Jatte = Georges Seurat; The Son of Man = René Magritte
        Liberty Leading the People = Eugène Delacroix; The Card Players = Paul Cézanne; Olympia = Édouard Manet
        The Fighting Temeraire = J. M. W. Turner; The Hay Wain = John Constable
        Campbell's Soup Cans = Andy Warhol
        """,
    ),
    Facts(
        "discoveries",
        "Known for: {}\nName:",
        """
        the telephone = Alexander Graham Bell; penicillin = Alexander Fleming; radium = Marie Curie
        the theory of relativity = Albert Einstein; the law of gravitation = Isaac Newton; X-rays = Wilhelm Röntgen
        dynamite = Alfred Nobel; the printing press = Johannes Gutenberg; the phonograph = Thomas Edison
        wireless telegraphy = Guglielmo Marconi; the smallpox vaccine = Edward Jenner; pasteurization = Louis Pasteur
        the periodic table = Dmitri Mendeleev; the moons of Jupiter = Galileo Galilei
        the laws of planetary motion = Johannes Kepler; the laws of inheritance = Gregor Mendel
        the electron = J. J. Thomson; the neutron = James Chadwick; the World Wide Web = Tim Berners-Lee
        the barometer = Evangelista Torricelli; the electric battery = Alessandro Volta
        the circulation of the blood = William Harvey; the quantum of energy = Max Planck
        the uncertainty principle = Werner Heisenberg; the atomic nucleus = Ernest Rutherford
        the heliocentric model = Nicolaus Copernicus; the diesel engine = Rudolf Diesel; the polio vaccine = Jonas Salk
        electromagnetic induction = Michael Faraday; radio waves = Heinrich Hertz
        """,
    ),
]
